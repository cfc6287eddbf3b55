"""What a network costs on a device at every width of its layers: measured on pieces of it, fitted, saved as JSON."""
