"""
Crashes, power loss and disk errors under the ledger.
"""
