"""What runs on the device: shipped as source in every bundle under the name `runner`, never imported by edgekd.

Only the standard library, numpy and the board's own runtime are used here. Boards carry Python 3.6 (JetPack 4) to 3.13,
so the code keeps to the syntax of 3.6. All that it must know stands in the bundle's manifest.json.
"""
