"""What one looks at: images, words and lines in colours, on one page."""
