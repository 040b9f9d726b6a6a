"""MAMBA, recurrent world models that communicate (AAMAS 2022, arXiv 2205.15023), in forty lines.

Every agent has a recurrent state-space model of its own, DreamerV2's with discrete latents (arXiv 2010.02193); weights
are shared. What an agent will see depends on what the others do, so before each step the models tell each other what
they know and intend, by attention over the team. Nothing models the global state: a latent is one vector an agent.

1. **Latent** (``latent``). At time t agent i has a deterministic state h and a stochastic one z, 32 one-hot choices
   among 32 classes. Networks see the feature f = [z, h]. Sampling passes the gradient of the probabilities
   straight through.

2. **Transition** (``networks``, over ``dima.nn.team_transformer``). Attention over the agents mixes what they do and
   where they stand, then each updates its memory:

       m = Transformer over agents(ReLU(W [a_{t-1}, z_{t-1}]) + sinusoid(i)),   h_t = GRU(m, h_{t-1}).

3. **Prior and posterior.** p(z_t | h_t) imagines; q(z_t | h_t, e(o_t)) filters real observations. One KL divergence
   pulls them together, four parts of five by moving the prior:

       L_KL = mean over the choices of  0.2 KL(q || sg p) + 0.8 KL(sg q || p).

4. **Losses** (``losses``, ``model``). From windows of 20 real rows across episodes, whose beginnings reset the state:
   the observation from f_t, the reward and whether the episode goes on from g_t = [z_t, h_{t+1}], which knows the
   action; the action masks from f_t; and the agent's previous action from the decoder's hidden layer. That last,
   *information*, loss keeps an agent's own action in its latent, where the attention would blur it.

5. **Policy** (``perception``). The actor sees f_t of its agent, the critic those of all. In imagination they come from
   the prior; in the environment :class:`~dima.world_models.mamba.perception.LatentPerception` filters the
   episode as it is played, and is the policy's memory. So agents communicate when they act, too.

6. **Together** (``model``). :class:`~dima.world_models.mamba.model.MambaWorldModel` stands behind the interface of
   ``dima.world_models.base``: rollouts start from nearly every row of a window (``starts``), ``policy_view`` shows
   features, ``observe`` decodes observations for people. PPO learns in the rollouts
   (``dima.algorithms.mamba``, ``dima.algorithms.feature_ppo``).

Read ``latent``, ``networks``, ``losses``, then ``model``. docs/reference/mamba.md has every size, trap and decision.
"""
