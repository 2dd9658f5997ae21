"""Networks: frozen surrogates, generators, classifiers and their weights."""
