"""MAMBA: a recurrent world model for each agent, whose agents communicate (arXiv 2205.15023, AAMAS 2022)."""
