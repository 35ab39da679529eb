"""x"""
draw_confusion = draw_curves = None
