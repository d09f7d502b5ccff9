"""The figures: cryptofd and its peers in one run, in turns."""
