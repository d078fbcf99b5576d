"""Generation: attributes, perspectives, instructions, responses, and the teachers that answer."""
