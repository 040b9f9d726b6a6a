"""The run folder and its parts, crash-safe and safe against untrusted content.

Read ``run_folder`` first, then ``layout`` and ``saved`` (what it consists of, how it is read), ``checkpoint``,
``chunks`` and ``metrics``. Below them: ``atomic`` (write and verify files), ``manifest`` (JSON with a digest),
``serialization`` (trees of tensors without pickle), ``lock``, ``dashboards``. ``table`` shows metrics in columns.
``budget`` limits the time for checkpoints, ``memory`` the size of models built from an untrusted config.
"""
