"""Copying the sessions of a tenant from one backend to another, of whatever kind, while the source is in use.

`copy` goes over the source pass by pass (`passes`). It keeps nothing outside the destination, so that a killed copy is resumed by
starting it again (`marks`). A session is copied whole or not at all (`moving`). What the destination had already is never overwritten,
nor what somebody has written there since.

Memory: a line for each session of the tenant, and of a few sessions at a time a page each (`reading.PAGE_BYTES`); the state of one
session, which the contract reads whole, and a single entry or blob must fit. A copy keeps what a session holds, its times and its
expiry. It has an incarnation, versions, commit ids and a fence of its own, and no claim.
"""

from .moving import Pair
from .passes import Difference, Report, Tell, copy, finish
from .verifying import Verified, verify

__all__ = ["Difference", "Pair", "Report", "Tell", "Verified", "copy", "finish", "verify"]
