"""The passes: each a file, a function and a sentence. Each gives a new program and leaves the old one alone."""
