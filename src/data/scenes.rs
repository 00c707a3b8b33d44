//! Procedurally drawn scenes for the built-in demo: textured discs, boxes, triangles, bars and rings that
//! occlude each other, over clutter. A scene is a pure function of (seed, index).
//!
//! A class has one shape and a usual texture. Colours of the classes overlap, a third of the objects have
//! another class's texture, and the background has the same textures, so that neither colour nor texture
//! alone determines the class.

use super::pixels::{Mask, RgbImage};
use super::source::{Cache, Sample, Source};
use crate::ops::Size;
use crate::rng::{Domain, Key, Stream};
use crate::{Error, Result};
use std::f32::consts::{PI, TAU};
use std::sync::Arc;

/// Classes of the scenes, in order.
pub(super) const SCENE_CLASSES: [&str; 6] = ["background", "disc", "box", "triangle", "bar", "ring"];

/// The scenes of a [`SceneSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SceneSpec {
    /// Seed of the scenes.
    pub seed: u64,
    /// Index of the first scene; the sets of one run have disjoint ranges.
    pub first: u64,
    /// Number of scenes.
    pub len: usize,
    /// Rows and columns, each at least 16.
    pub size: Size,
}

/// Scenes `first..first + len`, drawn on demand and cached (up to 1 GiB).
pub struct SceneSource {
    spec: SceneSpec,
    cache: Cache,
}

impl SceneSource {
    /// A source of the scenes of `spec`.
    ///
    /// # Errors
    /// [`Error::Config`] when the size is below 16 by 16 pixels.
    pub fn new(spec: SceneSpec) -> Result<SceneSource> {
        if spec.size.0.min(spec.size.1) < 16 {
            let got = format!("{} x {}", spec.size.0, spec.size.1);
            return Err(Error::config(
                "scenes",
                format!("size: expected at least 16 x 16 pixels, got {got}"),
            ));
        }
        Ok(SceneSource { spec, cache: Cache::new(spec.len, 1 << 30) })
    }
}

impl Source for SceneSource {
    fn size(&self, _: usize) -> Result<Size> {
        Ok(self.spec.size)
    }

    fn keep(&self, bytes: usize) {
        self.cache.limit(bytes);
    }

    fn len(&self) -> usize {
        self.spec.len
    }

    fn name(&self, i: usize) -> String {
        format!("scene-{:06}", self.spec.first + i as u64)
    }

    fn load(&self, i: usize) -> Result<Arc<Sample>> {
        self.cache.get(i, || {
            let (image, mask) = draw(self.spec.seed, self.spec.first + i as u64, self.spec.size);
            Ok(Sample { image, mask: Some(mask), name: self.name(i) })
        })
    }

    fn has_masks(&self) -> bool {
        true
    }

    fn fingerprint(&self, i: usize) -> Result<u32> {
        let SceneSpec { seed, first, size, .. } = self.spec;
        let numbers = [seed, first + i as u64, size.0 as u64, size.1 as u64].map(u64::to_le_bytes);
        Ok(crc32c::crc32c(numbers.as_flattened()))
    }
}

/// Scene `index` of `seed`.
fn draw(seed: u64, index: u64, (h, w): Size) -> (RgbImage, Mask) {
    let mut rng = Key::new(seed, Domain::Scene, index).stream();
    let side = h.min(w) as f32;
    let mut canvas = Canvas { h, w, rgb: vec![[0.0; 3]; h * w], mask: vec![0; h * w] };

    // Ground: one texture, then patches and strokes of others, all of them background.
    let ground = Paint::any(&mut rng, side);
    canvas.rgb.iter_mut().enumerate().for_each(|(i, p)| *p = ground.at((i % w) as f32, (i / w) as f32));
    for _ in 0..2 + rng.below(4) {
        let shape = Shape::patch(&mut rng, (h, w));
        let paint = Paint::any(&mut rng, side);
        canvas.add(&shape, &paint, None);
    }
    for _ in 0..4 + rng.below(10) {
        let shape = Shape::stroke(&mut rng, (h, w));
        let paint = Paint::any(&mut rng, side);
        canvas.add(&shape, &paint, None);
    }
    for _ in 0..3 + rng.below(4) {
        let class = 1 + rng.below(SCENE_CLASSES.len() - 1);
        let shape = Shape::object(class, &mut rng, (h, w));
        let paint = Paint::of(class, &mut rng, side);
        canvas.add(&shape, &paint, Some(class as u8));
    }

    // A gradient of light across the scene, a tint, and sensor noise.
    let (angle, fall) = (rng.range(0.0, TAU), rng.range(0.0, 0.45));
    let tint: [f32; 3] = std::array::from_fn(|_| rng.range(0.9, 1.1));
    let exposure = rng.range(0.75, 1.15);
    let noise = rng.range(0.01, 0.06);
    let (dy, dx) = angle.sin_cos();
    let mut data = Vec::with_capacity(h * w * 3);
    for (i, rgb) in canvas.rgb.iter().enumerate() {
        let (y, x) = ((i / w) as f32 / h as f32 - 0.5, (i % w) as f32 / w as f32 - 0.5);
        let light = exposure * (1.0 + fall * 2.0 * (x * dx + y * dy));
        for c in 0..3 {
            let grain = rng.uniform() + rng.uniform() + rng.uniform() - 1.5; // about normal, deviation 0.5
            data.push(((rgb[c] * light * tint[c] + 2.0 * noise * grain).clamp(0.0, 1.0) * 255.0 + 0.5) as u8);
        }
    }
    (RgbImage { size: (h, w), data }, Mask { size: (h, w), data: canvas.mask })
}

/// Colours in [0, 1] and classes while a scene is drawn.
struct Canvas {
    h: usize,
    w: usize,
    rgb: Vec<[f32; 3]>,
    mask: Vec<u8>,
}

impl Canvas {
    /// Draws a shape over the canvas, its edge antialiased. Objects (those with a class) are shaded from one
    /// side and cast a soft shadow; clutter has the class of the background.
    fn add(&mut self, shape: &Shape, paint: &Paint, class: Option<u8>) {
        for y in 0..self.h {
            for x in 0..self.w {
                let (px, py) = (x as f32, y as f32);
                let pixel = &mut self.rgb[y * self.w + x];
                if class.is_some() {
                    let shadow = (1.0 - shape.distance(px - 2.0, py - 3.0).max(0.0) / 5.0).clamp(0.0, 1.0);
                    *pixel = pixel.map(|v| v * (1.0 - 0.35 * shadow));
                }
                let distance = shape.distance(px, py);
                let cover = (0.5 - distance).clamp(0.0, 1.0);
                if cover > 0.0 {
                    let color = paint.at(px, py);
                    let shade = if class.is_some() {
                        1.0 - 0.18 * shape.across(px, py).clamp(-1.0, 1.0)
                    } else {
                        1.0
                    };
                    for c in 0..3 {
                        pixel[c] += cover * (color[c] * shade - pixel[c]);
                    }
                }
                if distance < 0.0 {
                    self.mask[y * self.w + x] = class.unwrap_or(0);
                }
            }
        }
    }
}

/// Outline families.
#[derive(Clone, Copy)]
enum Outline {
    Ellipse,
    Box,
    Triangle,
    Ring { thickness: f32 },
}

/// An outline with its position, rotation and extent. Lengths are in pixels.
struct Shape {
    outline: Outline,
    x: f32,
    y: f32,
    sin: f32,
    cos: f32,
    /// Half extents along the shape's own axes.
    half: [f32; 2],
}

impl Shape {
    fn new(outline: Outline, rng: &mut Stream, (h, w): Size, half: [f32; 2]) -> Shape {
        let (sin, cos) = rng.range(0.0, TAU).sin_cos();
        Shape {
            outline,
            x: rng.range(0.02, 0.98) * w as f32,
            y: rng.range(0.02, 0.98) * h as f32,
            sin,
            cos,
            half,
        }
    }

    fn object(class: usize, rng: &mut Stream, size: Size) -> Shape {
        let r = rng.range(0.11, 0.26) * size.0.min(size.1) as f32;
        let aspect = rng.range(0.85, 1.18);
        let half = [r * aspect, r / aspect];
        match class {
            1 => Shape::new(Outline::Ellipse, rng, size, half),
            2 => Shape::new(Outline::Box, rng, size, half.map(|v| v * 0.85)),
            3 => Shape::new(Outline::Triangle, rng, size, half.map(|v| v * 1.2)),
            4 => {
                let slim = rng.range(0.16, 0.26);
                Shape::new(Outline::Box, rng, size, [1.7 * r, slim * r + 1.0])
            }
            _ => {
                let thickness = rng.range(0.32, 0.45);
                Shape::new(Outline::Ring { thickness }, rng, size, half.map(|v| v * 1.1))
            }
        }
    }

    /// A large irregular area of the ground.
    fn patch(rng: &mut Stream, size: Size) -> Shape {
        let side = size.0.min(size.1) as f32;
        let half = [rng.range(0.3, 0.7) * side, rng.range(0.15, 0.5) * side];
        let mut shape = Shape::new(Outline::Box, rng, size, half);
        // Mostly outside the image, so that one straight edge is visible and not a box.
        shape.x += 0.6 * side * if rng.chance(0.5) { 1.0 } else { -1.0 };
        shape
    }

    /// A small line or speck.
    fn stroke(rng: &mut Stream, size: Size) -> Shape {
        let side = size.0.min(size.1) as f32;
        let half = [rng.range(0.02, 0.2) * side, rng.range(0.4, 1.0)];
        Shape::new(Outline::Ellipse, rng, size, half)
    }

    /// Position in the shape's own axes.
    fn local(&self, x: f32, y: f32) -> (f32, f32) {
        let (x, y) = (x - self.x, y - self.y);
        (x * self.cos + y * self.sin, y * self.cos - x * self.sin)
    }

    /// Approximate signed distance to the outline in pixels, negative inside; accurate near the outline.
    fn distance(&self, x: f32, y: f32) -> f32 {
        let (u, v) = self.local(x, y);
        let [a, b] = self.half;
        let ellipse = || ((u / a).hypot(v / b) - 1.0) * a.min(b);
        match self.outline {
            Outline::Ellipse => ellipse(),
            Outline::Box => (u.abs() - a).max(v.abs() - b),
            Outline::Triangle => {
                // Base at v = -b/2, apex at v = b.
                let slope = (1.5 * b).hypot(0.9 * a);
                let side = ((u.abs() * 1.5 * b) + (v - b) * 0.9 * a) / slope;
                side.max(-0.5 * b - v)
            }
            Outline::Ring { thickness } => {
                let band = 0.5 * thickness * a.min(b);
                (ellipse() + band).abs() - band
            }
        }
    }

    /// Position across the shape from the lit side (-1) to the dark side (1); light comes from the upper
    /// left.
    fn across(&self, x: f32, y: f32) -> f32 {
        ((x - self.x) + (y - self.y)) / (self.half[0] + self.half[1])
    }
}

/// Texture families.
#[derive(Clone, Copy, PartialEq)]
enum Texture {
    Clouds,
    Dots,
    Stripes,
    Checks,
    Grain,
    Plain,
}

/// Fill of an area: two colours mixed by a texture.
struct Paint {
    texture: Texture,
    colors: [[f32; 3]; 2],
    /// Period of the texture in pixels.
    period: f32,
    sin: f32,
    cos: f32,
    salt: u32,
}

/// Mean hue of each class, as a fraction of the circle; objects deviate by up to 0.08, so that neighbouring
/// ranges meet.
const HUES: [f32; 6] = [0.3, 0.02, 0.58, 0.14, 0.8, 0.42];

impl Paint {
    /// Fill of an object of `class`: with probability 0.67 the texture of its class, otherwise any.
    fn of(class: usize, rng: &mut Stream, side: f32) -> Paint {
        let usual = [
            Texture::Clouds,
            Texture::Dots,
            Texture::Checks,
            Texture::Stripes,
            Texture::Plain,
            Texture::Grain,
        ];
        let own = rng.chance(0.67);
        let any = usual[rng.below(usual.len())];
        let spread = rng.range(-0.08, 0.08);
        let (saturation, value) = (rng.range(0.35, 0.9), rng.range(0.35, 0.95));
        Paint::new(if own { usual[class] } else { any }, HUES[class] + spread, saturation, value, rng, side)
    }

    /// Fill of the ground and of clutter: any texture, less saturated.
    fn any(rng: &mut Stream, side: f32) -> Paint {
        let all = [
            Texture::Clouds,
            Texture::Clouds,
            Texture::Grain,
            Texture::Stripes,
            Texture::Checks,
            Texture::Dots,
        ];
        let texture = all[rng.below(all.len())];
        let (hue, saturation, value) = (rng.uniform(), rng.range(0.0, 0.4), rng.range(0.25, 0.9));
        Paint::new(texture, hue, saturation, value, rng, side)
    }

    fn new(texture: Texture, hue: f32, saturation: f32, value: f32, rng: &mut Stream, side: f32) -> Paint {
        let (sin, cos) = rng.range(0.0, PI).sin_cos();
        let contrast = rng.range(0.25, 0.6);
        let other = value * (1.0 - contrast);
        let colors = [
            from_hsv(hue, saturation, value),
            from_hsv(hue + rng.range(-0.06, 0.06), saturation * rng.range(0.6, 1.1), other),
        ];
        // Textures scale with the image, but in small ones not below what can be resolved.
        let period = rng.range(0.05, 0.09) * side.max(64.0);
        Paint { texture, colors, period, sin, cos, salt: rng.next_u32() }
    }

    /// Colour at a pixel.
    fn at(&self, x: f32, y: f32) -> [f32; 3] {
        let (u, v) =
            ((x * self.cos + y * self.sin) / self.period, (y * self.cos - x * self.sin) / self.period);
        let mix = match self.texture {
            Texture::Clouds => {
                0.65 * self.noise(u * 0.35, v * 0.35) + 0.35 * self.noise(u * 1.1 + 7.0, v * 1.1)
            }
            Texture::Dots => {
                let (du, dv) = (u - u.floor() - 0.5, v - v.floor() - 0.5);
                ((0.33 - du.hypot(dv)) * 8.0 + 0.5).clamp(0.0, 1.0)
            }
            Texture::Stripes => (0.5 + 1.5 * (u * TAU).sin()).clamp(0.0, 1.0),
            Texture::Checks => (0.5 + 4.0 * (u * PI).sin() * (v * PI).sin()).clamp(0.0, 1.0),
            Texture::Grain => self.noise(u * 4.0, v * 4.0),
            Texture::Plain => 0.25 * self.noise(u * 0.3, v * 0.3),
        };
        std::array::from_fn(|c| self.colors[0][c] + mix * (self.colors[1][c] - self.colors[0][c]))
    }

    /// Smooth noise in [0, 1] over the unit lattice.
    fn noise(&self, u: f32, v: f32) -> f32 {
        let (u0, v0) = (u.floor(), v.floor());
        let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
        let (fu, fv) = (smooth(u - u0), smooth(v - v0));
        let at = |du: i32, dv: i32| lattice(u0 as i32 + du, v0 as i32 + dv, self.salt);
        let top = at(0, 0) + fu * (at(1, 0) - at(0, 0));
        let bottom = at(0, 1) + fu * (at(1, 1) - at(0, 1));
        top + fv * (bottom - top)
    }
}

/// A hash of a lattice point as a value in [0, 1).
fn lattice(u: i32, v: i32, salt: u32) -> f32 {
    let mut h = (u as u32).wrapping_mul(0x9E37_79B1) ^ (v as u32).wrapping_mul(0x85EB_CA77) ^ salt;
    h = (h ^ (h >> 15)).wrapping_mul(0x2C1B_3C6D);
    h = (h ^ (h >> 12)).wrapping_mul(0x297A_2D39);
    crate::rng::unit(h ^ (h >> 15))
}

/// RGB from hue (a fraction of the circle), saturation and value.
fn from_hsv(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    [5.0, 3.0, 1.0].map(|n: f32| {
        let k = (n + hue * 6.0).rem_euclid(6.0);
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(first: u64, len: usize) -> SceneSource {
        SceneSource::new(SceneSpec { seed: 1, first, len, size: (96, 96) }).unwrap()
    }

    #[test]
    fn scenes_are_a_function_of_their_number() {
        let (a, b) = (source(0, 8), source(5, 3));
        assert_eq!(a.load(6).unwrap(), b.load(1).unwrap());
        assert_ne!(a.load(5).unwrap().image, a.load(6).unwrap().image);
        assert_eq!(b.name(1), "scene-000006");
    }

    #[test]
    fn every_class_covers_a_fair_share() {
        let scenes = source(0, 60);
        let mut counts = [0usize; SCENE_CLASSES.len()];
        for i in 0..scenes.len() {
            scenes
                .load(i)
                .unwrap()
                .mask
                .as_ref()
                .unwrap()
                .data
                .iter()
                .for_each(|&c| counts[usize::from(c)] += 1);
        }
        let share = counts.map(|c| c as f64 / (60.0 * 96.0 * 96.0));
        assert!(share[0] > 0.4 && share[0] < 0.85, "{share:?}");
        assert!(share[1..].iter().all(|&s| s > 0.015), "{share:?}");
    }

    #[test]
    fn any_size_is_drawn_and_tiny_ones_are_refused() {
        let spec = SceneSpec { seed: 1, first: 0, len: 1, size: (37, 120) };
        assert_eq!(SceneSource::new(spec).unwrap().load(0).unwrap().image.data.len(), 37 * 120 * 3);
        assert!(SceneSource::new(SceneSpec { size: (8, 96), ..spec }).is_err());
    }
}
