"""Which vertebra is which: network, decode and prompts for the segmenter."""
