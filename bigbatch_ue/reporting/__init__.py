"""What both report families share: style, words, intervals, pages, TensorBoard."""
