//! How sure the teachers were, epoch by epoch: a column an epoch, a row a bin of confidences, dark where many
//! pixels lie. Knows histograms and PNGs.

use super::html::{data_uri, escape};
use crate::{Error, Result};
use image::{ExtendedColorType, ImageEncoder};

/// More epochs than this share columns.
const COLUMNS: usize = 160;
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;
/// Of full cells, blue; how full a cell is, is how opaque it is, which works on light and dark pages.
const COLOR: [u8; 3] = [0, 114, 178];

/// Histograms of a run, by epoch, and the threshold for pseudo labels.
pub(super) struct Heat<'a> {
    /// Name of the run.
    pub label: &'a str,
    /// Epoch and counts a bin over [0, 1]; all have as many bins.
    pub epochs: Vec<(u64, &'a [u64])>,
    /// Confidence from which on pixels are labelled.
    pub threshold: f64,
}

impl Heat<'_> {
    /// The picture; nothing without histograms.
    ///
    /// # Errors
    /// An encoder's.
    pub fn svg(&self) -> Result<Option<String>> {
        let (Some((first, counts)), Some((last, _))) = (self.epochs.first(), self.epochs.last()) else {
            return Ok(None);
        };
        let bins = counts.len();
        if bins == 0 {
            return Ok(None);
        }
        let columns = self.columns(bins);
        let mut pixels = Vec::with_capacity(4 * bins * columns.len());
        for bin in (0..bins).rev() {
            for column in &columns {
                let alpha = (255.0 * column[bin].sqrt()).round() as u8;
                pixels.extend([COLOR[0], COLOR[1], COLOR[2], alpha]);
            }
        }
        let mut png = Vec::new();
        let size = (columns.len() as u32, bins as u32);
        image::codecs::png::PngEncoder::new(&mut png)
            .write_image(&pixels, size.0, size.1, ExtendedColorType::Rgba8)
            .map_err(|e| Error::Usage(format!("confidence of {}: {e}", self.label)))?;
        let (width, height) = (WIDTH - LEFT - 14.0, HEIGHT - TOP - BOTTOM);
        let bottom = TOP + height;
        let threshold = TOP + (1.0 - self.threshold) * height;
        let label = escape(self.label);
        Ok(Some(format!(
            "<figure><figcaption>{label}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"confidence of {label}\"><image href=\"{}\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{width}\" \
             height=\"{height}\" preserveAspectRatio=\"none\" style=\"image-rendering:pixelated\"/>\
             <path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}h{width}\"/>\
             <path class=\"threshold\" d=\"M{LEFT} {threshold:.1}h{width}\"><title>threshold {}</title></path>\
             <text x=\"{x}\" y=\"{:.1}\" text-anchor=\"end\">1</text><text x=\"{x}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\
             <text x=\"{x}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{LEFT}\" y=\"{base:.1}\">epoch {first}</text>\
             <text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{last}</text></svg></figure>",
            data_uri("image/png", &png),
            self.threshold,
            TOP + 9.0,
            threshold + 4.0,
            self.threshold,
            LEFT + width,
            x = LEFT - 6.0,
            base = bottom + 17.0,
        )))
    }

    /// The share of each bin, a column for as many epochs as have to share one.
    fn columns(&self, bins: usize) -> Vec<Vec<f64>> {
        let together = self.epochs.len().div_ceil(COLUMNS);
        let column = |epochs: &[(u64, &[u64])]| {
            let mut sums = vec![0.0; bins];
            for (_, counts) in epochs {
                sums.iter_mut().zip(*counts).for_each(|(sum, &count)| *sum += count as f64);
            }
            let total: f64 = sums.iter().sum();
            sums.iter().map(|sum| if total > 0.0 { sum / total } else { 0.0 }).collect()
        };
        self.epochs.chunks(together.max(1)).map(column).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_shares() {
        let (a, b) = ([1, 3], [0, 0]);
        let heat = Heat { label: "r", epochs: vec![(1, &a), (2, &b)], threshold: 0.6 };
        assert_eq!(heat.columns(2), [vec![0.25, 0.75], vec![0.0, 0.0]]);
        let many: Vec<(u64, &[u64])> = (0..500).map(|i| (i, &a[..])).collect();
        let heat = Heat { label: "r", epochs: many, threshold: 0.6 };
        assert!(heat.columns(2).len() <= COLUMNS);
    }

    #[test]
    fn the_threshold_is_drawn() {
        let a = [1, 3, 0, 0];
        let heat = Heat { label: "<r>", epochs: vec![(6, &a)], threshold: 0.75 };
        let svg = heat.svg().unwrap().unwrap();
        assert!(
            svg.contains("threshold 0.75") && svg.contains("&lt;r&gt;") && svg.contains("epoch 6"),
            "{svg}"
        );
        let none = Heat { label: "r", epochs: vec![], threshold: 0.75 };
        assert_eq!(none.svg().unwrap(), None);
    }
}
