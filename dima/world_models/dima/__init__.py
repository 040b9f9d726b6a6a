"""DIMA, a diffusion-inspired multi-agent world model (NeurIPS 2025, arXiv 2505.20922), in forty lines.

A team of N agents acts in one environment with global state s. The world model samples the next state by reverse
diffusion, and each noise level is conditioned on the action of one agent: uncertainty shrinks as actions are revealed,
so the number of network calls grows with the number of agents, not with the product of their action spaces.

1. **Condition** (``action_encoder``). A Perceiver attends to the tokens of the last C joint actions. Of the newest
   one only the revealed agents' are visible: one agent's (``reveal = "one"``, as published), those revealed so far
   (``"cumulative"``) or all. Its output does not depend on the noise, so it is computed once per reveal mask.

2. **Denoiser** (``denoiser``). EDM's preconditioning of a network F, a one-dimensional U-Net (``unet``) over the C past
   states and the noisy next one, or for little processor time an MLP (``residual_mlp``):

       D(x; sigma) = c_skip x + c_out F(c_in x, past states; condition + c_noise),
       loss = E || F - (s' - c_skip x) / c_out ||^2,   x = s' + sigma_eff n,   sigma_eff^2 = sigma^2 + sigma_offset^2,

   with log-normal sigma and a random reveal mask. A window has H targets; from the second on, the model's own estimates
   replace the true past states. The offset makes samples narrower than they err: ``residual_noise`` widens them.

3. **Sampler** (``sampler``). K noise levels sigma_1 > ... > sigma_K, then 0; level k reveals the group of agents that
   is due, from the last agent to the first:

       x <- sigma_1 n;   for k = 1 ... K:   x <- x + (sigma_{k+1} - sigma_k) (x - D(x; sigma_k, revealed_k)) / sigma_k.

4. **Observations** (``dima.world_models.observation_decoder``). A vector-quantised network maps s' to every agent's
   observation; the codebook keeps decoded observations where the data is when imagined states drift.

5. **Reward and termination** (``reward_termination``). A causal Transformer (``reward_transformer``) over (state, joint
   action) tokens predicts reward, the probability of continuation and, where there are any, the next action masks; or
   an MLP of the transition (``reward_mlp``) and thresholds on the reached state (``additive_termination``).

6. **Together** (``model``). :class:`~dima.world_models.dima.model.DimaWorldModel` puts the three parts behind the
   interface of ``dima.world_models.base``: ``objectives`` for fitting, ``start`` / ``observe`` / ``step`` for rollouts.
   MAPPO learns in them (``dima.algorithms.model_based``).

Read ``unet`` and ``action_encoder``; what runs by default are their exact rewritings for speed in ``fused``.
docs/reference/dima.md has every size, every trap and its decision.
"""
