"""The plain path: what the authors' release computes, written the obvious way, as the yardstick of every speed-up.

The Perceiver runs at every denoising level and once per target of an update; attention is spelt out as a softmax of
products; convolutions and group norms are PyTorch's own; the reward model steps along a growing cache; optimisers are
PyTorch's defaults; everything is eager float32 and per-step Python. Autograd's anomaly detection, which the release
leaves on, is off. Networks take the library's weights and, under the same seed, give its numbers to rounding.

Nothing here calls the library's networks, samplers or losses, so that a speed-up of those cannot leak in; sizes,
replay and observation decoder are the library's.
"""
