"""What each command returns, one file per command: dataclasses whose JSON is the ``--json`` document.

Plain Python: importing it imports nothing heavy.
"""
