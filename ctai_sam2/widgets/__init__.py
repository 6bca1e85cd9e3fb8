"""The two editors in a JupyterLab cell, drawn with ipycanvas from the pure `ctai_sam2.editor`."""
