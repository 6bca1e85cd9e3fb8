"""One study after it was segmented: its row, files, report, replay, and its change between two dates."""
