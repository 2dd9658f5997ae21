"""The report of an evaluation: page, terminal table, figures, TensorBoard."""
