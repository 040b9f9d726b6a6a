"""Reference implementation: what the authors' release computes, in the plainest form.

The yardstick of every speed-up. The Perceiver runs at every denoising level and once per target of an update; attention
is a softmax of products with every score in memory; convolutions and group norms are PyTorch's own; rewards are
predicted step by step; optimisers are PyTorch's defaults; everything is eager float32 and per-step Python. Autograd's
anomaly detection, which the release leaves on, is off. Networks take the library's weights and, under the same seed,
give its numbers to rounding.

Nothing here calls the library's networks, samplers or losses, so that a change of those cannot move the yardstick;
sizes, replay and observation decoder are the library's. Read in order: ``layers``, ``unet``, ``encoder``, ``denoiser``,
``reward``, ``model``.
"""
