"""Films and filmstrips: a real episode, or a world model's imagination beside what really happened.

``moments`` plays an episode step by step; ``beside`` lets a world model imagine the same; ``imagination`` says how far
the two are apart; ``canvas`` lays pictures and captions out, ``pictures`` draws an imagination's frames and strips,
``episode`` a policy's; ``encode`` turns them into files, ``document`` writes the page and everything beside it; ``run``
does all this for a trained team.
"""
