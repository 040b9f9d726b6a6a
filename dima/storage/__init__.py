"""The run folder and its parts, each safe against a crash at any moment and against untrusted content.

Read ``run_folder`` first, then ``layout`` and ``saved`` (what it consists of, how it is read), ``checkpoint``,
``chunks`` and ``metrics``. Below them: ``atomic`` (write and verify files), ``manifest`` (JSON with a digest),
``serialization`` (trees of tensors without pickle), ``lock``, ``dashboards``. ``budget`` limits the time for
checkpoints, ``memory`` the size of models built from an untrusted config.
"""
