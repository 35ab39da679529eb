"""Building blocks of evaluation: logits of a split, and what they say about a classifier."""
