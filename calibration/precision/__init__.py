"""The choice of operations in float, by measured errors of samples.

`measure_operation_errors` measures each operation, `ranking` orders them, and `sparing` takes the first few. `refine`
finds how many a bound for quality or speed asks for.
"""
