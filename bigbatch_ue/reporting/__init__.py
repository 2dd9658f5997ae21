"""The kit of both kinds of report: style, words, statistics, pages, TensorBoard."""
