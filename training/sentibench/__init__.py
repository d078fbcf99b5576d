"""SentiBench, the benchmark of the method: its sets, prompts, answers and scores; no model is known here."""
