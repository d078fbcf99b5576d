"""People check a sample of the data: which rows, what they are asked, and what their verdicts say of all rows."""
