"""Pictures of any kind become 8-bit grey, shrunk and padded as the release does it."""

import io

import numpy as np
import pytest
from data_prep_trees import encoded, picture
from PIL import Image

from data_prep.reading import images


@pytest.mark.numeric
def test_shrink_and_pad_equals_the_released_function(shared):
    from safetensors.numpy import load_file

    tensors = load_file(shared / "parity" / "xvl_preprocess.safetensors")
    cases = [key for key in tensors if key.startswith("resize_img/")]
    assert len(cases) >= 15
    for key in cases:
        _, case, size = key.split("/")
        apart = images.shrink_and_pad(tensors[f"in/{case}"], int(size)).astype(int) - tensors[key]
        # A sum that ends at half a grey level may fall either way elsewhere: few pixels do
        assert np.abs(apart).max() <= 1 and (apart != 0).mean() < 0.01


@pytest.mark.numeric
def test_every_kind_of_image_becomes_8_bit_grey():
    grey = picture(1)
    np.testing.assert_array_equal(images.decode(encoded(grey)), grey)
    np.testing.assert_array_equal(images.decode(encoded(np.stack([grey] * 3, -1))), grey)
    alpha = picture(2)
    expected = np.rint(grey.astype(float) * alpha / 255)
    for pixels in (np.stack([grey, grey, grey, alpha], -1), np.stack([grey, alpha], -1)):
        assert np.abs(images.decode(encoded(pixels)) - expected).max() <= 1  # on black; truncated
    deep = grey.astype(np.uint16) * 7 + 300
    expected = ((grey - float(grey.min())) / (float(grey.max()) - grey.min()) * 255).astype(int)
    assert np.abs(images.decode(encoded(deep)) - expected).max() <= 1  # by their own range
    indexed = io.BytesIO()
    Image.fromarray(grey).convert("P").save(indexed, "PNG")
    np.testing.assert_array_equal(images.decode(indexed.getvalue()), grey)
    bilevel = io.BytesIO()
    Image.fromarray(grey).convert("1").save(bilevel, "PNG")
    assert set(np.unique(images.decode(bilevel.getvalue()))) == {0, 255}
    smooth = np.tile(np.arange(60, dtype=np.uint8) * 4, (48, 1))
    cmyk = io.BytesIO()
    Image.fromarray(np.stack([smooth] * 3, -1)).convert("CMYK").save(cmyk, "JPEG", quality=95)
    # JPEG of quality 95 quantises its lowest frequencies in steps of 2 to 6 levels, and four
    # channels are mixed
    assert np.abs(images.decode(cmyk.getvalue()).astype(int) - smooth).max() < 12
    turned = Image.Exif()
    turned[0x0112] = 6  # an orientation tag, ignored
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", exif=turned)
    assert images.decode(file.getvalue()).shape == (48, 60)


def test_16_bit_colour_keeps_its_lower_bits():
    cv2 = pytest.importorskip("cv2")
    grey = picture(3).astype(np.uint16) + 1000  # the upper bytes alone hold two values
    data = cv2.imencode(".png", np.stack([grey] * 3, -1))[1].tobytes()
    assert len(np.unique(images.decode(data))) > 200
