"""The precision map: which operations stay float at which steps, found by what it costs and wins when it is deployed.

`course` runs the bundle's plan with any body at any step, `sensitivity` measures each operation in each range group,
`search` orders what was measured into a frontier, `refine` deploys a point of it as the stages of a body.
"""
