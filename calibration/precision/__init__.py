"""The precision map says which operations stay float at which steps, from measured quality and speed.

`sensitivity` measures each operation in each range group. `search` orders the measurements into a frontier. `refine`
deploys a point of it as the graphs of a body.
"""
