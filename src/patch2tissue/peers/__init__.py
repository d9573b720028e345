"""Published alternatives to parts of the method, for comparison on the same data, encoder and budget."""
