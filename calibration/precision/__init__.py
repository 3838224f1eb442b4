"""The choice of operations in float, by measured errors of samples.

`operation_errors` measures each operation, `ranking` orders them, and `mixed_precision` keeps the first few in float.
`precision_search` finds how many of them a bound on quality or speed needs.
"""
