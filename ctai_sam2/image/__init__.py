"""Pure arrays: masks, contours, windowing, the body and the square a model sees. No files, no models."""
