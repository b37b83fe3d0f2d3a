"""Results as text (`formatting`), terminal tables (`tables`, rich) and figures (`figures`, matplotlib).

In: the result objects of `scsuite.core`. Out: strings, rich tables, matplotlib figures. Nothing is computed here.
"""
