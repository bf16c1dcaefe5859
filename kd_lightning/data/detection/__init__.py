"""Images with boxes: annotations as COCO's JSON and YOLO's text files have them."""
