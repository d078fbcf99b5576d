"""Generation with distilabel: attributes, perspectives, instructions, responses, and the teachers that answer."""
