"""The audit: a reward is trusted only after it paid the oracle, and nobody else.

`audit("arithmetic").passed`; `puna audit ./mine.py` prints the table.
"""

from puna.gym.audit.findings import Audit as Audit
from puna.gym.audit.findings import Finding as Finding
from puna.gym.audit.findings import show as show
from puna.gym.audit.parent import audit as audit
