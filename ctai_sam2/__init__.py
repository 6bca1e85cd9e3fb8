"""One-click body-composition segmentation on CT (the public surface is filled in as rooms are built)."""
