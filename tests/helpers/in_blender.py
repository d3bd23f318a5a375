"""Run by a Python that has Blender as the module ``bpy``, not by pytest: opens files, looks at them through cameras.

Its one argument is a file of JSON: ``{"files": [...], "poses": [4 x 4, ...], "fov": radians, "size": pixels, "out": folder}``,
poses with y up. Pictures go to ``out/NAME.ENDING-CAMERA.png``, what was found to ``out/found.json``.
"""

import json
import sys
from pathlib import Path

import bpy
from mathutils import Matrix

UPRIGHT = Matrix(
    ((1, 0, 0, 0), (0, 0, -1, 0), (0, 1, 0, 0), (0, 0, 0, 1))
)  # y up to Blender's z up, +z to its front, -y


def opened(path):
    """The objects of a file, by the importer's own defaults but for .ply, which does not say what is up; splats have y down."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if path.suffix == ".glb":
        bpy.ops.import_scene.gltf(filepath=str(path))
    elif path.suffix == ".obj":
        bpy.ops.wm.obj_import(filepath=str(path))
    else:
        up = "NEGATIVE_Y" if path.stem == "splats" else "Y"
        bpy.ops.wm.ply_import(filepath=str(path), up_axis=up, forward_axis="NEGATIVE_Z")
    return list(bpy.context.scene.objects)


def told(thing):
    """Where its vertices are, and what its colours come from."""
    places = [thing.matrix_world @ vertex.co for vertex in thing.data.vertices]
    colours = []
    for material in thing.data.materials:
        socket = material.node_tree.nodes["Principled BSDF"].inputs["Base Color"]
        images = [node.image for node in material.node_tree.nodes if node.type == "TEX_IMAGE"]
        colours.append({"from": socket.links[0].from_node.type if socket.links else "", "material": material.name,
                        "images": [[*image.size, image.colorspace_settings.name] for image in images]})  # fmt: skip
    return {
        "name": thing.name, "faces": len(thing.data.polygons), "vertices": len(places), "materials": colours,
        "low": [min(place[i] for place in places) for i in range(3)],
        "high": [max(place[i] for place in places) for i in range(3)],
        "coloured": [one.name for one in thing.data.color_attributes], "attributes": [one.name for one in thing.data.attributes],
    }  # fmt: skip


def shining(thing):
    """Its base colour as light, so that no lamp matters; the colours of vertices where no material has one."""
    if not thing.data.materials:
        thing.data.materials.append(bpy.data.materials.new("none"))
        thing.data.materials[0].use_nodes = True
    for material in thing.data.materials:
        tree = material.node_tree
        bare = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED").inputs[
            "Base Color"
        ]
        glow = tree.nodes.new("ShaderNodeEmission")
        if bare.links:
            tree.links.new(bare.links[0].from_socket, glow.inputs["Color"])
        elif thing.data.color_attributes:
            source = tree.nodes.new("ShaderNodeVertexColor")
            source.layer_name = thing.data.color_attributes[0].name
            tree.links.new(source.outputs["Color"], glow.inputs["Color"])
        end = next(node for node in tree.nodes if node.type == "OUTPUT_MATERIAL")
        tree.links.new(glow.outputs["Emission"], end.inputs["Surface"])


def look(job, name):
    scene = bpy.context.scene
    scene.render.engine, scene.cycles.device = "CYCLES", "CPU"
    scene.cycles.samples, scene.cycles.use_denoising = 16, False
    scene.cycles.pixel_filter_type = "BOX"
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.resolution_x = scene.render.resolution_y = job["size"]
    scene.render.film_transparent = True
    scene.view_settings.view_transform = "Standard"
    scene.render.image_settings.file_format, scene.render.image_settings.color_mode = "PNG", "RGBA"
    eye = bpy.data.objects.new("eye", bpy.data.cameras.new("eye"))
    eye.data.sensor_fit, eye.data.angle = "VERTICAL", job["fov"]
    scene.collection.objects.link(eye)
    scene.camera = eye
    for number, pose in enumerate(job["poses"]):
        eye.matrix_world = UPRIGHT @ Matrix(pose)
        scene.render.filepath = str(Path(job["out"]) / f"{name}-{number}.png")
        bpy.ops.render.render(write_still=True)


def main():
    job = json.loads(Path(sys.argv[1]).read_text())
    found = {"version": bpy.app.version_string}
    for path in map(Path, job["files"]):
        things = [thing for thing in opened(path) if thing.type == "MESH"]
        found[path.name] = [told(thing) for thing in things]
        if any(thing.data.polygons for thing in things):
            for thing in things:
                shining(thing)
            look(job, path.name)
    (Path(job["out"]) / "found.json").write_text(json.dumps(found))


main()
