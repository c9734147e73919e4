"""Generated programs: the shape of those that real architectures give, at any depth and number of levels."""
