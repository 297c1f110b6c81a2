"""Data sets: reading, drawing, balancing and splitting of images."""
