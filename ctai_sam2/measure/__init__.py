"""Numbers from masks and HU: definitions, body composition, cut-offs, columns, overlap of masks."""
