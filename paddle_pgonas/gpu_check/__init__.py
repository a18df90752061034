"""Proves in some minutes that this machine's GPU trains and scores as it should; ``tools/check_gpu.py`` is its command line.

``parts`` lists what is checked, ``runner`` runs every part in a process of its own (``child``), and ``hours`` turns the measured
rates into the hours of the real run. The other modules hold the parts: functions of a :class:`~paddle_pgonas.gpu_check.child.Job`
and of sizes, the same for a GPU and for a CPU.
"""
