"""MARIE, Transformers over discrete tokens with centralised aggregation (TMLR 2025, arXiv 2406.15836), in forty lines.

A team of N agents acts in one environment. Each agent has a sequence of its own, of what it sees and does, and a causal
Transformer, the same for all, predicts how it goes on. What the others see and do enters once in every step, by a
vector that a Perceiver makes of all agents' tokens: local dynamics are learnt by everybody, joint ones centrally.

1. **Tokens** (``tokenizer``). An autoencoder turns an agent's observation o into K codes of a codebook e, each the
   nearest to a vector z of the encoder; the codebook follows by moving averages:

       loss = mean |o_hat - o| + 10 mean (z - sg(e))^2.

   Continuous actions are bins, a token for each feature; a choice is one token.

2. **Aggregate** (``aggregator``). N learnt latents attend to the tokens of all agents in a step, each marked by whose
   it is, then to each other; the i-th is agent i's aggregate g.

3. **Sequence** (``transformer``). Agent i's step is a block [o_1 ... o_K, a_1 ... a_M, g]. Every token sees what stands
   before it in its episode. From token o_k follows o_{k+1}; from the aggregate follow the reward, the probability of
   continuation, the next action mask, and the first token of the next observation, from which the others follow one by
   one. A reward is a histogram of symlog(r), trained on the mass that a narrow Gaussian has in each bin.

4. **Fit** (``model``, ``losses``). First the tokenizer, on single observations; then the Transformer, on windows of L
   steps of its tokens. A window may hold several episodes: attention stays within each.

5. **Imagine** (``model``). From a real observation, without history. A step runs the action tokens and the aggregate
   through the Transformer, draws K tokens one after the other, and decodes them. Keys and values of the tokens so far
   are kept in a cache of fixed size. When its positions are used up, the rollout remembers the present alone.

6. **Act.** Actor and critic only ever see decoded observations, imagined or reconstructed (``Reconstruction``). So in
   the real environment each agent needs its own observation, the tokenizer and the actor: nobody communicates. The
   critic attends over the agents and values each (``dima.policies.attention_critic``, ``dima.algorithms.marie``).

The model knows no global state. Where observations hold it, ``dima.world_models.feature_copies`` reads it from them.
docs/reference/marie.md has every size, every trap and its decision.
"""
