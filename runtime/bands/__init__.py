"""Networks of images that run in bands of rows, so that they need less memory."""
