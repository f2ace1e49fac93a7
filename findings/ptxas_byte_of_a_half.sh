#!/usr/bin/env bash
# expected: storing the low byte of a half's bits (static_cast<uint8_t>(__half_as_ushort(h) & 255), st.u8 of its register in PTX) stores that byte: PTX says that a store takes the lowest bits of a wider register
# happens: ptxas 13.0 takes the register for a number and converts it to an integer of 8 bits (F2I.U8.F16), so the byte of a scale below 1 is 0; ptxas 13.5 stores the byte
# matters: a kernel that writes block scales byte by byte gives wrong files on the GPU only, while the same code on the CPU and every warning flag say nothing; write the half as 16 bits
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > byte.ptx <<'PTX'
.version 8.8
.target sm_90
.address_size 64
.visible .entry low_byte(.param .u64 to, .param .f32 value)
{
    .reg .b16 %h<2>;
    .reg .f32 %f<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [to];
    ld.param.f32 %f1, [value];
    cvta.to.global.u64 %rd2, %rd1;
    cvt.rn.f16.f32 %h1, %f1;
    st.global.u8 [%rd2], %h1;
    ret;
}
PTX
conversions() { # of the version, in machine code for sm_90
  python3 -m venv "$1"
  "$1/bin/pip" install --quiet "nvidia-cuda-nvcc==$1" nvidia-cuda-nvdisasm==13.5.37
  local tools
  tools=$(echo "$1"/lib/python3*/site-packages/nvidia/cu13/bin)
  "$tools/ptxas" -arch=sm_90 byte.ptx -o "$1.cubin"
  "$tools/nvdisasm" -c "$1.cubin" | grep -c 'F2I\.U8\.F16' || true
}
old=$(conversions 13.0.88)
new=$(conversions 13.5.37)
echo "conversions to an integer in the machine code: ptxas 13.0.88 $old, ptxas 13.5.37 $new"
[ "$old" = 1 ] && [ "$new" = 0 ]
