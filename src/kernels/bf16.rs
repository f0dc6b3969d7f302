//! Products that sum over tokens, with a left factor rounded to bf16 (csrc/README.md, "bf16"): packing and the tile.

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

type Product = unsafe extern "C" fn(*const u8, *const u8, usize, usize, usize, i32, *mut f32, usize);

/// The bf16 product family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bf16Kernels {
    geometry: unsafe extern "C" fn(*mut usize),
    pack_a: unsafe extern "C" fn(*const f32, usize, usize, *const f32, usize, *mut u8),
    pack_b: unsafe extern "C" fn(*const i8, usize, usize, usize, *mut u8),
    product: Product,
}

impl Bf16Kernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = Bf16Kernels {
            geometry: c::hqk_bf16_geometry_portable,
            pack_a: c::hqk_bf16_pack_a_portable,
            pack_b: c::hqk_bf16_pack_b_portable,
            product: c::hqk_bf16_product_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = Bf16Kernels {
                geometry: c::hqk_bf16_geometry_avx2,
                pack_a: c::hqk_bf16_pack_a_avx2,
                pack_b: c::hqk_bf16_pack_b_avx2,
                product: c::hqk_bf16_product_avx2,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = Bf16Kernels {
                geometry: c::hqk_bf16_geometry_avx512,
                pack_a: c::hqk_bf16_pack_a_avx512,
                pack_b: c::hqk_bf16_pack_b_avx512,
                product: c::hqk_bf16_product_avx512,
            };
        }
        #[cfg(hqk_avx512bf16)]
        if isa.includes(Isa::Avx512Bf16) {
            kernels = Bf16Kernels {
                geometry: c::hqk_bf16_geometry_avx512bf16,
                pack_a: c::hqk_bf16_pack_a_avx512bf16,
                pack_b: c::hqk_bf16_pack_b_avx512bf16,
                product: c::hqk_bf16_product_avx512bf16,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = Bf16Kernels {
                geometry: c::hqk_bf16_geometry_neon,
                pack_a: c::hqk_bf16_pack_a_neon,
                pack_b: c::hqk_bf16_pack_b_neon,
                product: c::hqk_bf16_product_neon,
            };
        }
        let _ = isa;
        kernels
    }
}

/// Shape of the panels of one ISA's bf16 product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bf16Panels {
    /// Columns of the left factor in a panel: rows of an output tile.
    pub a_width: usize,
    /// Columns of the right factor in a panel: columns of an output tile.
    pub b_width: usize,
    pair_bytes: usize,
}

impl Bf16Panels {
    /// Bytes of a panel of `width` columns over `tokens`.
    pub fn bytes(&self, width: usize, tokens: usize) -> usize {
        width * tokens.div_ceil(2) * self.pair_bytes
    }
}

impl KernelTable {
    /// The panel shape of this table's bf16 product.
    pub fn bf16_panels(&self) -> Bf16Panels {
        let mut geometry = [0usize; 3];
        // SAFETY: the kernel writes three sizes.
        unsafe { (self.bf16.geometry)(geometry.as_mut_ptr()) };
        let [a_width, b_width, pair_bytes] = geometry;
        Bf16Panels { a_width, b_width, pair_bytes }
    }

    /// Packs `cols` columns (`a_width` at most) of `factors.len()` rows of `x`, `stride` elements apart: each element times
    /// its row's factor, rounded to bf16 (half to even). A panel begins at a multiple of 4 bytes.
    ///
    /// # Panics
    /// If a slice is too short, or the panel is not aligned.
    pub fn bf16_pack_a(&self, x: &[f32], stride: usize, factors: &[f32], cols: usize, panel: &mut [u8]) {
        let (shape, tokens) = (self.bf16_panels(), factors.len());
        check_pack(x.len(), tokens, stride, cols, shape.a_width, panel, shape.bytes(shape.a_width, tokens));
        // SAFETY: `x` holds `tokens` rows of `cols` values at `stride`, `tokens` factors, and the panel has its full size.
        unsafe {
            (self.bf16.pack_a)(x.as_ptr(), tokens, stride, factors.as_ptr(), cols, panel.as_mut_ptr());
        }
    }

    /// Packs `cols` columns (`b_width` at most) of `tokens` rows of `x`.
    ///
    /// # Panics
    /// As [`KernelTable::bf16_pack_a`].
    pub fn bf16_pack_b(&self, x: &[i8], tokens: usize, stride: usize, cols: usize, panel: &mut [u8]) {
        let shape = self.bf16_panels();
        check_pack(x.len(), tokens, stride, cols, shape.b_width, panel, shape.bytes(shape.b_width, tokens));
        // SAFETY: as in `bf16_pack_a`.
        unsafe { (self.bf16.pack_b)(x.as_ptr(), tokens, stride, cols, panel.as_mut_ptr()) };
    }

    /// One tile: `c[i][j] (+)= sum over t of a[t][i] * b[t][j]` for `rows` rows and `cols` columns.
    ///
    /// # Panics
    /// If a slice is too short, or a panel is not aligned.
    #[allow(clippy::too_many_arguments)] // the kernel's own list
    pub fn bf16_product(
        &self,
        a_panel: &[u8],
        b_panel: &[u8],
        tokens: usize,
        (rows, cols): (usize, usize),
        accumulate: bool,
        c: &mut [f32],
        c_stride: usize,
    ) {
        let shape = self.bf16_panels();
        assert!(rows <= shape.a_width && cols <= shape.b_width, "bf16_product: tile of {rows} x {cols}");
        assert!(a_panel.len() >= shape.bytes(shape.a_width, tokens), "bf16_product: left panel too short");
        assert!(b_panel.len() >= shape.bytes(shape.b_width, tokens), "bf16_product: right panel too short");
        assert!(is_aligned(a_panel) && is_aligned(b_panel), "bf16_product: panel not aligned");
        let needed = if rows == 0 { 0 } else { (rows - 1) * c_stride + cols };
        assert!(cols <= c_stride && c.len() >= needed, "bf16_product: output too short");
        let accumulate = i32::from(accumulate);
        // SAFETY: both panels and the output have the sizes the tile needs, as checked.
        unsafe {
            let c = c.as_mut_ptr();
            (self.bf16.product)(a_panel.as_ptr(), b_panel.as_ptr(), tokens, rows, cols, accumulate, c, c_stride);
        }
    }
}

fn is_aligned(panel: &[u8]) -> bool {
    panel.as_ptr().cast::<u32>().is_aligned() || panel.is_empty()
}

fn check_pack(len: usize, tokens: usize, stride: usize, cols: usize, width: usize, panel: &[u8], bytes: usize) {
    let needed = if tokens == 0 { 0 } else { (tokens - 1) * stride + cols };
    assert!(cols <= width && len >= needed, "bf16_pack: {len} values, {needed} needed");
    assert!(panel.len() >= bytes && is_aligned(panel), "bf16_pack: panel of {} bytes, {bytes} needed", panel.len());
}
