"""What is counted in a mask: clusters and regions."""
