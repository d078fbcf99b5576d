"""What is kept and why: near-duplicates, difficulty under the student, selection, the ledger of decisions."""
