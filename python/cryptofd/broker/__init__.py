"""The broker: decides who may use which key for what, and never sees a key or a payload.

``interface`` is what clients may ask, ``transport`` reads them, ``who`` says who they are,
``policy`` and ``rules`` decide, ``store`` keeps the wrapped keys, ``audit`` the decisions,
``keys`` and ``sessions`` do it by way of ``packets`` to supervisor and workers, ``server`` joins
them. Needs the extra ``broker``.
"""
