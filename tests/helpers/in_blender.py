"""Run by a Python that has Blender as the module ``bpy``, not by pytest: imports files and renders.

Its one argument is a JSON file: ``{"files": [...], "poses": [4 x 4, ...], "fov": radians, "size":
pixels, "out": folder}``, with poses y up. Images are written to ``out/NAME.ENDING-CAMERA.png``, a
description of the imported objects to ``out/found.json``.
"""

import json
import sys
from pathlib import Path

import bpy
from mathutils import Matrix

# y up to Blender's z up, +z to its front, -y
UPRIGHT = Matrix(((1, 0, 0, 0), (0, 0, -1, 0), (0, 1, 0, 0), (0, 0, 0, 1)))


def import_file(path):
    """Import a file with the importer's defaults and return its objects.

    Only .ply needs axes, which it does not store; splats have y down.
    """
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if path.suffix == ".glb":
        bpy.ops.import_scene.gltf(filepath=str(path))
    elif path.suffix == ".obj":
        bpy.ops.wm.obj_import(filepath=str(path))
    else:
        up = "NEGATIVE_Y" if path.stem == "splats" else "Y"
        bpy.ops.wm.ply_import(filepath=str(path), up_axis=up, forward_axis="NEGATIVE_Z")
    return list(bpy.context.scene.objects)


def describe_material(material):
    """What the base color of a material comes from."""
    nodes = material.node_tree.nodes
    socket = nodes["Principled BSDF"].inputs["Base Color"]
    images = [node.image for node in nodes if node.type == "TEX_IMAGE"]
    return {
        "from": socket.links[0].from_node.type if socket.links else "",
        "material": material.name,
        "images": [[*image.size, image.colorspace_settings.name] for image in images],
    }


def describe(item):
    """Bounding box, counts, materials and attributes of an object."""
    places = [item.matrix_world @ vertex.co for vertex in item.data.vertices]
    return {
        "name": item.name,
        "faces": len(item.data.polygons),
        "vertices": len(places),
        "materials": [describe_material(material) for material in item.data.materials],
        "low": [min(place[i] for place in places) for i in range(3)],
        "high": [max(place[i] for place in places) for i in range(3)],
        "color_attributes": [attribute.name for attribute in item.data.color_attributes],
        "attributes": [attribute.name for attribute in item.data.attributes],
    }


def emit_base_color(item):
    """Make the object emit its base color, so that no lamp matters.

    Vertex colors are used where no material has a base color.
    """
    if not item.data.materials:
        item.data.materials.append(bpy.data.materials.new("none"))
        item.data.materials[0].use_nodes = True
    for material in item.data.materials:
        tree = material.node_tree
        bsdf = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
        base_color = bsdf.inputs["Base Color"]
        emission = tree.nodes.new("ShaderNodeEmission")
        if base_color.links:
            tree.links.new(base_color.links[0].from_socket, emission.inputs["Color"])
        elif item.data.color_attributes:
            source = tree.nodes.new("ShaderNodeVertexColor")
            source.layer_name = item.data.color_attributes[0].name
            tree.links.new(source.outputs["Color"], emission.inputs["Color"])
        output = next(node for node in tree.nodes if node.type == "OUTPUT_MATERIAL")
        tree.links.new(emission.outputs["Emission"], output.inputs["Surface"])


def render(job, name):
    """Render the scene from every camera of the job."""
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
        meshes = [item for item in import_file(path) if item.type == "MESH"]
        found[path.name] = [describe(item) for item in meshes]
        if any(item.data.polygons for item in meshes):
            for item in meshes:
                emit_base_color(item)
            render(job, path.name)
    (Path(job["out"]) / "found.json").write_text(json.dumps(found))


main()
