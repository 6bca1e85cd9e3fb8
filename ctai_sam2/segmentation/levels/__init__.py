"""Which vertebra is which: the vertebral bodies of a sagittal slice or a volume, and the choice of L3."""
