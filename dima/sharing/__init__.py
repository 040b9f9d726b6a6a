"""Policies and run folders for other programs, machines and people.

``export`` writes a run's policy as files that act without simulator, replay and world model: ``networks`` (the policy
as a function of padded arrays; ``perceptions`` are the parts of world models in it), ``files`` (safetensors,
torch.export, ONNX), ``card`` (what it is and where it is from) and ``spaces`` (the agents' spaces as plain data).
``policy`` loads such a file and acts, a ``graph`` among them. ``hub`` copies run folders to and from the Hugging Face
hub.
"""
